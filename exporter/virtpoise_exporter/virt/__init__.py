"""What libvirt knows: the host, its domains and their states."""
