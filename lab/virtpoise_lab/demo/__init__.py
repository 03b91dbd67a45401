"""The demo: the whole loop on real hosts, from the load that rises to the prediction that is held against a
measurement.
"""
