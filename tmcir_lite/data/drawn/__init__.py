"""What all drawn worlds share: folders, photographs and lists of words."""
