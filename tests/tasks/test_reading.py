"""Reading as a task: what a reader is measured and calibrated on."""

import numpy as np

from model_builder.plates.kinds import GRAMMAR, PLATES
from model_builder.tasks import READING, Reading
from model_builder.train.data import development_set
from service.artifact import Grammar


def test_a_reader_of_one_country_is_measured_on_plates_of_it():
    reader = Reading(GRAMMAR.within(["fr"]))
    assert reader.plates == tuple(plate for plate in PLATES if plate.region == "fr")
    fits = reader.grammar.formats_of
    assert all(fits(text) for text in reader.sets([], 20)["rendered"].texts)
    np.testing.assert_array_equal(reader.development(3), development_set(3, reader.plates).images)


def test_a_reader_of_all_kinds_and_one_of_none_are_measured_on_all():
    assert READING.plates == Reading(Grammar(formats=())).plates == PLATES
