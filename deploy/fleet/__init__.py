"""The hall shared with verify: specs, inventories, connections, runs."""
