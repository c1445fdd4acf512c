"""The house on many machines: Ray Serve runs engines and entrances; one owner switches. The only room that knows Ray.

`start` is what `roundhouse serve --cluster` calls. Nothing here is imported unless a cluster is asked for.
"""
