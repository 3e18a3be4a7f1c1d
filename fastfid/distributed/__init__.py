"""Many processes, one result: joining them, their exchanges, the one merge of moments, and failing together.

Every process (rank) reads its own share of the images into its own ``Moments``; nothing is exchanged before the end of
a set. Then ``merge_across`` gives every rank the moments of all, bit for bit the same:

    n = Σ n_r,   mean = Σ n_r mean_r / n,   scatter = Σ ( scatter_r + n_r (mean_r − mean)(mean_r − mean)ᵀ )

Everything goes through gloo over CPU memory, GPUs or not: 33 MB of float64 at d = 2048, once per set, is not worth a
communicator on the device. The sum over ranks is ours and not gloo's ``all_reduce``, whose order of additions is not
documented: each rank adds one piece of the matrix, in the order of the ranks, and hands the sum on. So the same ranks
with the same features always give the same bits, and a rank sends and receives 2 d² numbers whatever K is.

Failing together: an exchange begins with one gather of (what, error, value) from all ranks. A rank whose work failed
takes part in whatever gather the others come to next, with its error in place of a value, and so every rank raises: the
failed ones their own error, the others RankError. A rank that dies without a word closes its connections, which the
others' gather turns into RankError; one that neither answers nor dies is announced after 30 s, by number, and the
timeout ends the wait. Ranks write signs of life on the launcher's store (``board``), so that the others can tell one
that is slow from one that is stopped.

Source: Chan, Golub & LeVeque, doi:10.1080/00031305.1983.10483115 (the merge).
"""

from fastfid.distributed.launch import asked, local_device, under_launcher
from fastfid.distributed.merge import merge_across
from fastfid.distributed.patience import TIMEOUT_S
from fastfid.distributed.rows import rows_across
from fastfid.distributed.world import World, first_on_node, joined, together

__all__ = [
    "TIMEOUT_S",
    "World",
    "asked",
    "first_on_node",
    "joined",
    "local_device",
    "merge_across",
    "rows_across",
    "together",
    "under_launcher",
]
