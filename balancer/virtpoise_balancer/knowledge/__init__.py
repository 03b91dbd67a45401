"""What the balancer remembers: cycles, plans, migrations, predictions and how they came out."""
