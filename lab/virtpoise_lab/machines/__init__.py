"""Machines that boot: Debian with systemd, sshd and libvirtd as packaged, to install on as an administrator does."""
