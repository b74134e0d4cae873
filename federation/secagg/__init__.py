"""The masked sum, `secagg/1`: ring, masks, shamir and bodies are the parts; site.py and server.py join them."""
