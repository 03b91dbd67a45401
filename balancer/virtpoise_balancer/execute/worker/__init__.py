"""What runs in a worker process: the only code that touches libvirt.

It imports little, so that a worker starts quickly.
"""
