"""Real libvirt hosts on one machine, for the demo and the integration tests."""
