"""HTTP entrances: parse a wire, call the gateway, encode the answer. No decisions are taken here."""
