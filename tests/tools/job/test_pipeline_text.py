"""Pipelines as text: what is written is what is read, and what can't be read is refused with a hint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kronnx.ir.errors import UsageError
from kronnx.passes.cleanup import Cleanup
from kronnx.passes.project import Project
from kronnx.passes.prune import Prune
from kronnx.passes.svd import Svd
from kronnx.tools.job.pipeline_text import parse, text_of

LAYERS = st.from_regex(r"[a-z0-9_.*?/:,=\[\]-]{1,12}", fullmatch=True)
SHARE = st.floats(0.001, 0.999)
RANK = st.none() | SHARE | st.integers(1, 512).map(float)
SIZE = st.integers(1, 4096)
BLOCK = st.none() | st.builds("{}x{}".format, SIZE, SIZE)
STAGES = st.one_of(
    st.just(Cleanup()),
    st.builds(Svd, rank=RANK, layers=LAYERS),
    st.builds(Svd, energy=st.none() | SHARE, layers=LAYERS),
    st.builds(Project, rank=RANK, layers=LAYERS),
    st.builds(Prune, sparsity=st.none() | SHARE, block=BLOCK, layers=LAYERS),
)


@given(st.lists(STAGES, min_size=1, max_size=4).map(tuple))
def test_a_pipeline_is_read_back_from_its_text(stages):
    assert parse(text_of(stages)) == stages


def test_options_are_read_with_their_types_and_any_spaces():
    text = " svd{ rank=0.5  layers=encoder.* } ,prune{block=16x512 sparsity=0.25}"
    assert parse(text) == (Svd(rank=0.5, layers="encoder.*"), Prune(sparsity=0.25, block="16x512"))


def test_only_what_differs_from_the_default_is_written():
    assert text_of((Svd(), Prune(sparsity=0.5))) == "svd,prune{sparsity=0.5}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the pipeline is empty"),
        ("svdd", "no pass 'svdd'; did you mean 'svd'"),
        ("quantize8", "no pass 'quantize8'"),
        ("svd{rnk=1}", "svd: no option 'rnk'; did you mean 'rank'"),
        ("cleanup{rank=1}", "cleanup: no option 'rank'"),
        ("svd{rank}", "can't read 'rank'"),
        ("svd{rank=much}", r"svd\{rank=much\}: a value of type float"),
        ("svd{rank=0.5,layers=a}", "a value of type float is needed; options are parted by spaces"),
        ("svd{rank=0}", r"rank=0\.0"),
        ("svd{rank=1.5}", "a whole number"),
        ("svd{rank=1 energy=0.5}", "one of the two"),
        ("prune{sparsity=1}", r"sparsity=1\.0"),
        ("prune{block=16}", "block=16"),
        ("project{rank=-1}", r"rank=-1\.0"),
        ("svd prune", "can't read the pipeline"),
        ("svd{rank=1", "can't read the pipeline"),
        (",svd", "can't read the pipeline"),
    ],
)
def test_what_can_not_be_read_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)
