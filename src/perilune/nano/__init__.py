"""nano, the embedded model: how it is run, alone and as a swarm, and what it was trained on."""
