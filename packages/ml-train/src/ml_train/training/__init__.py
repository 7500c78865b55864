"""TrainModule (model, optimizer, schedule) and Trainer (the loop around it)."""
