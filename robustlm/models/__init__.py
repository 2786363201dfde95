"""Language models with one interface: on this machine, or at an endpoint."""
