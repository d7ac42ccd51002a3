"""Text samples that the model writes during training, to show what it has learned."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Integer

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.documents import Documents
from block_recurrent.data.vocabularies import Vocabulary, encode_prompt
from block_recurrent.errors import UserError
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.parallel.processes import is_main_process, print_once
from block_recurrent.parallel.sharding import Layout

PROMPT_TOKENS = 64  # length of a prompt from a held-out document
SAMPLING = Sampling(temperature=0.8)
NOTE_LINES, NOTE_COLUMNS = 6, 96  # maximum size of a text in a note


class TextSample(NamedTuple):
    """A prompt, and what the model wrote after it."""

    prompt: str
    text: str

    def note(self) -> str:
        """A few lines to print: the end of the prompt and the beginning of the text."""
        if not self.text:
            return f"after {self.prompt[-40:]!r} the model writes nothing"
        lines = [shorten(printable(line)) for line in self.text.splitlines()]
        if len(lines) > NOTE_LINES:
            lines = [*lines[:NOTE_LINES], "…"]
        return "\n    ".join([f"after {self.prompt[-40:]!r} the model writes", *lines])


class TextSampler:
    """Lets a model continue a prompt, with the same random numbers every time.

    The first text compiles the generator. Texts are written on one device, which must have memory
    for all parameters.

    Args:
      generator: generator of the model; gets new parameters for every text.
      vocabulary: vocabulary of the model.
      prompt: the tokens to continue.
      num_tokens: maximum number of tokens; a text ends early if the model ends the document.
      layout: layout of the parameters.
    """

    def __init__(
        self,
        generator: Generator,
        vocabulary: Vocabulary,
        prompt: Integer[np.ndarray, " length"],
        num_tokens: int,
        layout: Layout,
    ):
        self.generator, self.vocabulary = generator, vocabulary
        self.prompt, self.num_tokens = prompt, num_tokens
        self.gather = jax.jit(lambda params: params, out_shardings=layout.replicated)

    def __call__(self, params: dict[str, Any]) -> TextSample | None:
        """Returns a text in the first process, None in the others. All must call this."""
        # Wait, so that these collectives cannot mix with those of another process's next step.
        whole = jax.block_until_ready(self.gather(params))
        if not is_main_process():
            return None
        self.generator.params = jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)
        [tokens] = self.generator.generate(
            [self.prompt],
            self.num_tokens,
            sampling=SAMPLING,
            stop_tokens=(self.vocabulary.end_id,),
        )
        self.generator.params = None  # frees the memory until the next text
        stream = TextStream(self.vocabulary)
        return TextSample(stream.add(self.prompt), stream.add(tokens) + stream.end())


def text_sampler(
    graphdef: nnx.GraphDef,
    abstract: dict[str, Any],
    train: TrainConfig,
    documents: Documents,
    layout: Layout,
) -> TextSampler | None:
    """Makes the sampler of a run; None if no texts are requested, or none can be generated.

    Args:
      graphdef: structure of the model.
      abstract: shapes of its parameters.
      train: options, such as the number of tokens and the prompt.
      documents: the beginning of the longest of these is the default prompt.
      layout: layout of the parameters.

    Raises:
      UserError: the vocabulary lacks characters of the prompt.
    """
    if not train.sample_tokens:
        return None
    vocabulary = documents.vocabulary
    try:
        vocabulary.decode([])
        model = nnx.merge(graphdef, abstract)
        generator = Generator(model, segment_length=train.segment_length)
    except UserError as error:
        print_once(f"no texts at evaluations: {error}")
        return None
    if train.sample_prompt is None:
        longest = int(np.argmax(documents.lengths))
        length = min(PROMPT_TOKENS, int(documents.lengths[longest]) - 1)
        prompt = documents.tokens(longest, 0, length)
    else:
        prompt = encode_prompt(
            train.sample_prompt.encode("utf-8", "surrogateescape"),
            vocabulary,
            "train.sample_prompt",
        )
    return TextSampler(generator, vocabulary, prompt, train.sample_tokens, layout)


def printable(text: str) -> str:
    """Escapes characters that a terminal might interpret."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.expandtabs())


def shorten(line: str) -> str:
    """Truncates a long line."""
    return line if len(line) <= NOTE_COLUMNS else line[: NOTE_COLUMNS - 1] + "…"
