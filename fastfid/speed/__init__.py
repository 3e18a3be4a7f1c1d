"""``fastfid bench``: how fast this machine is at each stage, after each stage was found right."""
