"""Matrix functions of covariances: factors, polar factor, nuclear norm, square roots, with bounds on their traces."""
