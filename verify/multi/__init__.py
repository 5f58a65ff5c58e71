"""Training across hosts, from the controller: who takes part, what it comes to, who is at fault."""
