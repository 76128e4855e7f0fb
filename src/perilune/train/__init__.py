"""The recipe: from generated worlds to a trained model."""
