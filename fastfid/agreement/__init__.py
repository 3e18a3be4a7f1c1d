"""Whether all processes of a run were given the same: contracts between them are checked by content, not by name.

Before the work (``claims``): networks by the hash of their weights, or by what they make of a fixed input; sets by
their listing (names, sizes, checksums where an archive keeps them), shape and dtype, and up to 64 items drawn by a
fixed seed; statistics by a digest. During it (``watch``): a thousandth of each rank's share, and one item at least, is
read by the next rank, too, and a stream, of which nothing is known beforehand, is hashed by every rank as it goes by
and compared after 64 images and at its end. A difference is a ValueError on every rank that says what each had and what
to do.

What this does not see: a difference in items that were neither drawn nor read twice, in files of equal names and sizes.
"""

from fastfid.agreement.claims import agree_on_network
from fastfid.agreement.sharing import Sharing
from fastfid.agreement.watch import Watch, twins

__all__ = ["Sharing", "Watch", "agree_on_network", "twins"]
