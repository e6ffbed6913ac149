"""A speller that says how a word is pronounced: a GRU reads the letters, another one speaks.

g2p-en 2.1.0, Park & Kim, Apache-2.0: 0.8 million weights in one NumPy file.
"""

from dataclasses import replace
from string import ascii_lowercase

import pytest
import torch
from torch import nn

import dsf
from tests.pretrained.tagger import read_arrays

WEIGHTS = "g2p"
END_OF_WORD, START, STOP, LONGEST = 2, 2, 3, 20
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH")
CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH UW V W Y Z ZH"
STRESSED = [f"{vowel}{stress}" for vowel in (*VOWELS, "UW") for stress in "012"]
PHONEMES = sorted(STRESSED + CONSONANTS.split())


class Speller(nn.Module):
    """Letters in, phonemes out, one at a time until it stops."""

    def __init__(self, saved):
        super().__init__()
        self.letters = nn.Embedding.from_pretrained(saved["enc_emb"])
        self.sounds = nn.Embedding.from_pretrained(saved["dec_emb"])
        self.reader = nn.GRU(256, 256, batch_first=True)
        self.speaker = nn.GRUCell(256, 256)
        self.choice = nn.Linear(256, 74)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        short = ("w_ih", "w_hh", "b_ih", "b_hh")
        pairs = list(zip(names, short, strict=True))
        self.reader.load_state_dict({f"{name}_l0": saved[f"enc_{key}"] for name, key in pairs})
        self.speaker.load_state_dict({name: saved[f"dec_{key}"] for name, key in pairs})
        self.choice.load_state_dict({"weight": saved["fc_w"], "bias": saved["fc_b"]})

    def forward(self, word):
        codes = [3 + ascii_lowercase.index(letter) for letter in word] + [END_OF_WORD]
        read, _ = self.reader(self.letters(torch.tensor([codes])))
        state, sound, spoken = read[:, -1], START, []
        while len(spoken) < LONGEST:
            state = self.speaker(self.sounds(torch.tensor([sound])), state)
            sound = int(self.choice(state).argmax())
            if sound == STOP:
                break
            spoken.append(PHONEMES[sound - 4])
        return spoken


@pytest.fixture(scope="module")
def speller(weights):
    return Speller(read_arrays(weights / "checkpoint20.npz"))


@pytest.mark.parametrize(
    ("word", "spoken"),
    [("mamba", "M AE1 M B AH0"), ("kernel", "K ER1 N AH0 L"), ("gating", "G EY1 T IH0 NG")],
)
def test_it_still_speaks(speller, word, spoken):
    assert " ".join(speller(word)) == spoken


def test_reader_and_speaker_are_two_layers(speller):
    reader, speaker = dsf.inspect(speller, "mamba")
    assert (reader.name, speaker.name) == ("reader[layer 0]", "speaker")
    assert (reader.system.steps, speaker.system.steps) == (6, 6)
    assert reader.error < 1e-5
    assert speaker.error < 1e-5


def test_in_float64(speller):
    for layer in dsf.inspect(speller, "mamba", exact=True):
        assert layer.error < 1e-13


def test_what_the_word_left_behind_is_not_in_the_map(speller):
    """The speaker starts from the reader's last state; without it the response is another one."""
    _, speaker = dsf.inspect(speller, "mamba", exact=True)
    response = dsf.respond(speaker.system, speaker.signal)
    forgetful = dsf.respond(replace(speaker.system, initial=None), speaker.signal)
    torch.testing.assert_close(
        forgetful[..., 0, 0], (speaker.map() @ speaker.signal[..., 0])[..., 0]
    )
    assert (forgetful - response).abs().max() / response.abs().max() > 0.5
