"""Language models behind one contract: on this machine, or at an endpoint."""
