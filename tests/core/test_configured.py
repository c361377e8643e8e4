"""Objects that are described by their arguments."""

from tfcompress.core.configured import Configured


class Base(Configured):
    def __init__(self, begin=0, shape=(1, 2)):
        self.begin, self.shape = begin, shape


class Handing(Base):
    def __init__(self, height, **options):
        super().__init__(**options)
        self.height = height


class Fixed(Base):
    def __init__(self, height):
        super().__init__(begin=3)
        self.height = height


class Private(Base):
    def __init__(self, secret, **options):
        super().__init__(**options)
        self._secret = secret

    def get_config(self):
        return {**super().get_config(), "secret": self._secret}


def test_arguments_of_bases_are_kept_where_they_are_handed_on():
    assert Handing(0.5, begin=7).get_config() == {
        "height": 0.5,
        "begin": 7,
        "shape": [1, 2],
    }
    again = Handing.from_config(Handing(0.5, begin=7).get_config())
    assert (again.height, again.begin) == (0.5, 7)


def test_what_a_class_sets_for_its_base_is_no_argument_of_its_own():
    assert Fixed(0.5).get_config() == {"height": 0.5}
    assert Fixed.from_config(Fixed(0.5).get_config()).begin == 3


def test_a_config_of_ones_own_adds_to_that_of_the_base():
    made = Private(9, begin=2)
    assert made.get_config() == {"begin": 2, "shape": [1, 2], "secret": 9}
    assert Private.from_config(made.get_config())._secret == 9
