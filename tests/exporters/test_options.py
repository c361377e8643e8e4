"""What an editor is told of `export`'s options is what the exporters take."""

import dataclasses
import typing

import pytest

from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.exporters.options import OPTIONS
from tfcompress.reporting.evidence import Evidence, EvidenceOptions


def test_every_format_has_options():
    assert sorted(OPTIONS) == sorted(EXPORTERS.names())


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_options_are_those_of_the_exporter(name):
    fields = [f for f in dataclasses.fields(EXPORTERS.class_of(name)) if f.init]
    assert list(OPTIONS[name].__annotations__) == [field.name for field in fields]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_defaults_are_among_the_literals(name):
    hints = typing.get_type_hints(OPTIONS[name])
    for field in dataclasses.fields(EXPORTERS.class_of(name)):
        literals = [
            value
            for part in (hints[field.name], *typing.get_args(hints[field.name]))
            if typing.get_origin(part) is typing.Literal
            for value in typing.get_args(part)
        ]
        optional = type(None) in typing.get_args(hints[field.name])
        if literals:
            assert field.default in literals or (optional and field.default is None)


def test_evidence_is_what_a_report_takes():
    names = [field.name for field in dataclasses.fields(Evidence)]
    assert list(EvidenceOptions.__annotations__) == names
