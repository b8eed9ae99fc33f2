"""What changes while serving: takes from the streams what the gateway accepted, gives it its effect."""
