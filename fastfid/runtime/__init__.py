"""What everything stands on: files, checks of arguments, switches of torch, the choice of backends."""
