"""Networks that are made ready to be trained again."""

import numpy as np
import torch

from model_builder.candidates import widened
from model_builder.networks.reader import LPRNet, Widths
from model_builder.plates.kinds import ALPHABET

WIDTHS = Widths(4, (4,), (4, 4), (4, 4, 4), 8, 4)


@torch.inference_mode()
def test_a_network_of_a_smaller_alphabet_reads_as_before_and_has_the_new_character():
    torch.manual_seed(0)
    known = ALPHABET.replace("I", "")
    network = LPRNet(len(known) + 1, WIDTHS).eval()
    wide = widened(network, known).eval()
    crops = torch.randint(0, 256, (2, 24, 94, 3), dtype=torch.uint8)
    before, after = network(crops).numpy(), wide(crops).numpy()
    assert after.shape[2] == len(ALPHABET) + 1
    same = [ALPHABET.index(character) for character in known] + [len(ALPHABET)]
    np.testing.assert_allclose(after[..., same], before, atol=1e-5)
    one = after[..., ALPHABET.index("1")]
    assert (after[..., ALPHABET.index("I")] < one).all()  # it looks like 1, and is not read before it is trained


def test_a_network_of_today_s_alphabet_stays_as_it_is():
    network = LPRNet(len(ALPHABET) + 1, WIDTHS)
    assert widened(network, ALPHABET) is network
