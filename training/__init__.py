"""How the demo model is made: data, tokenizer, training, export. See README.md."""
