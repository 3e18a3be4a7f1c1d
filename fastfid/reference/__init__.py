"""The obvious float64 form of every kernel, in plain torch: what the engines are tested against."""
