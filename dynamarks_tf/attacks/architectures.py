"""Small classifiers of unrelated designs, for owner models and surrogates: of images, of vectors, of text.

Those of images are built from the shape of an input. Those of vectors and text are built from the attacker's inputs,
whose scale or vocabulary they take over: `new_model` does either.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from dynamarks_tf._support.input_kind import Kind, input_kind
from dynamarks_tf.attacks.trees import TREES
from dynamarks_tf.errors import ArgumentError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
layers = keras.layers


def pooled_cnn(shape: Shape, num_classes: int) -> keras.Model:
    """Two convolutions with pooling, the owner model of the studies."""
    return keras.Sequential(
        [
            keras.Input(shape, name="image"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(num_classes, activation="softmax"),
        ],
        name="pooled_cnn",
    )


def separable_cnn(shape: Shape, num_classes: int) -> keras.Model:
    """Strided and separable convolutions with batch normalization."""
    stack: list[Any] = [
        keras.Input(shape, name="image"),
        layers.Conv2D(24, 5, strides=2, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
    ]
    for filters in (64, 96):
        stack += [
            layers.SeparableConv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
        stack += [layers.MaxPooling2D(padding="same")] if filters == 64 else []
    outputs = [layers.Flatten(), layers.Dense(num_classes, activation="softmax")]
    return keras.Sequential([*stack, *outputs], name="separable_cnn")


def mlp(shape: Shape, num_classes: int) -> keras.Model:
    """Two dense layers."""
    stack: list[Any] = [keras.Input(shape), layers.Flatten()]
    stack += [layers.Dense(256, activation="relu"), layers.Dense(128, activation="relu")]
    return keras.Sequential([*stack, layers.Dense(num_classes, activation="softmax")], name="mlp")


def resnet(shape: Shape, num_classes: int) -> keras.Model:
    """Two residual blocks."""
    inputs = keras.Input(shape)
    x = _normalized_convolution(inputs, 16, 1)
    for filters in (16, 32):
        y = _normalized_convolution(x, filters, 2)
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization(momentum=0.9)(y)
        x = layers.ReLU()(layers.Add()([layers.Conv2D(filters, 1, strides=2, padding="same")(x), y]))
    outputs = layers.Dense(num_classes, activation="softmax")(layers.Flatten()(x))
    return keras.Model(inputs, outputs, name="resnet")


def patch_mixer(shape: Shape, num_classes: int) -> keras.Model:
    """Patches, mixed across space and channels by dense layers (after Tolstikhin et al., MLP-Mixer, NeurIPS 2021)."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(32, 4, strides=4)(inputs)
    x = layers.Reshape((-1, 32))(x)
    for _ in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(x.shape[1])(layers.Dense(64, activation="gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.Dense(32)(layers.Dense(64, activation="gelu")(layers.LayerNormalization()(x)))
        x = layers.Add()([x, y])
    outputs = layers.Dense(num_classes, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs, name="patch_mixer")


def vit(shape: Shape, num_classes: int) -> keras.Model:
    """A small vision transformer: patches of 4 x 4 pixels, learned positions, pre-norm encoder blocks, mean pooling.

    Reference:
        [An Image is Worth 16x16 Words](https://arxiv.org/abs/2010.11929), Dosovitskiy et al., ICLR 2021.
    """
    width, heads, blocks = 48, 3, 2
    inputs = keras.Input(shape)
    x = layers.Reshape((-1, width))(layers.Conv2D(width, 4, strides=4)(inputs))
    x = AddPositions()(x)
    for _ in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, layers.Dense(num_classes, activation="softmax")(x), name="vit")


def glyph_cnn(shape: Shape, num_classes: int) -> keras.Model:
    """Three normalized convolutions and a hidden layer, the owner model for many classes of small images."""
    stack: list[Any] = [keras.Input(shape)]
    for filters, size in ((24, 5), (48, 3), (64, 3)):
        stack += [
            layers.Conv2D(filters, size, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
    stack += [layers.Flatten(), layers.Dense(256, use_bias=False), layers.BatchNormalization(momentum=0.9)]
    stack += [layers.ReLU(), layers.Dropout(0.2), layers.Dense(num_classes, activation="softmax")]
    return keras.Sequential(stack, name="glyph_cnn")


@keras.saving.register_keras_serializable("dynamarks_tf")
class AddPositions(keras.layers.Layer):
    """Adds a learned vector to each token of a sequence, one for each position."""

    def build(self, input_shape: Shape) -> None:
        """Creates the vectors."""
        self.positions = self.add_weight(
            shape=(1, *input_shape[1:]), initializer=keras.initializers.RandomNormal(stddev=0.02), name="positions"
        )

    def call(self, inputs: Any) -> Any:
        """Returns tokens of the same shape."""
        return inputs + self.positions


@keras.saving.register_keras_serializable("dynamarks_tf")
class MeanOfWords(keras.layers.Layer):
    """Averages the vectors of a text's words without its padding; a text without words gets zeros.

    `GlobalAveragePooling1D` divides by the number of words, which gives NaN where there are none.
    """

    supports_masking = True

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Returns vectors of shape `(n, width)` for `inputs` of shape `(n, words, width)`."""
        weights = keras.ops.expand_dims(keras.ops.cast(mask, inputs.dtype), -1)
        return keras.ops.sum(inputs * weights, axis=1) / keras.ops.maximum(keras.ops.sum(weights, axis=1), 1)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Returns `None`: the words are gone."""


def _normalized_convolution(x: Any, filters: int, strides: int) -> Any:
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def table_mlp(vectors: Array, num_classes: int) -> keras.Model:
    """Vectors, scaled column by column, and two dense layers."""
    mean, variance = vectors.mean(axis=0, dtype=np.float64), vectors.var(axis=0, dtype=np.float64)
    return keras.Sequential(
        [
            keras.Input(vectors.shape[1:], name="vector"),
            layers.Normalization(mean=mean.tolist(), variance=variance.tolist()),
            layers.Dense(128, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(num_classes, activation="softmax"),
        ],
        name="table_mlp",
    )


def embedding_pooling(inputs: Array, num_classes: int) -> keras.Model:
    """Text as word embeddings, averaged over the words, and a dense layer."""
    stack = [MeanOfWords(), layers.Dense(64, activation="relu")]
    return _text_model("embedding_pooling", inputs, stack, num_classes, masked=True)


def embedding_cnn(inputs: Array, num_classes: int) -> keras.Model:
    """Text as word embeddings, a convolution along the words, and the maximum over them."""
    stack = [layers.Conv1D(96, 3, padding="same", activation="relu"), layers.GlobalMaxPooling1D()]
    return _text_model("embedding_cnn", inputs, stack, num_classes)


def _text_model(name: str, inputs: Array, stack: list[Any], num_classes: int, *, masked: bool = False) -> keras.Model:
    longest = max(len(text.split()) for text in inputs.ravel().tolist())
    settings: dict[str, Any] = {"output_mode": "int", "output_sequence_length": min(max(1, longest), _MOST_WORDS)}
    words = layers.TextVectorization(max_tokens=_MOST_TOKENS, **settings)
    words.adapt(inputs.ravel().tolist())
    vocabulary = words.get_vocabulary(include_special_tokens=False) or ["the"]  # Keras refuses an empty one
    source = keras.Input(inputs.shape[1:], dtype="string", name="text")
    x = layers.TextVectorization(vocabulary=vocabulary, **settings)(source)  # so that copies have the vocabulary
    x = layers.Embedding(len(vocabulary) + 2, 64, mask_zero=masked)(x)
    for layer in (*stack, layers.Dense(num_classes, activation="softmax")):
        x = layer(x)
    return keras.Model(source, x, name=name)


_MOST_WORDS = 128  # of a text; those after are cut off
_MOST_TOKENS = 20_000

ARCHITECTURES = {
    build.__name__: build for build in (pooled_cnn, separable_cnn, mlp, resnet, patch_mixer, vit, glyph_cnn)
}

# Surrogates of vectors and text take the attacker's inputs and the number of classes.
BY_KIND: dict[Kind, dict[str, Any]] = {
    "images": ARCHITECTURES,
    "vectors": {"table_mlp": table_mlp, **TREES},
    "text": {build.__name__: build for build in (embedding_pooling, embedding_cnn)},
}
MAIN: dict[Kind, str] = {"images": "separable_cnn", "vectors": "table_mlp", "text": "embedding_pooling"}
SECOND: dict[Kind, str] = {"images": "mlp", "vectors": "table_mlp", "text": "embedding_cnn"}
ALL = {name: build for architectures in BY_KIND.values() for name, build in architectures.items()}


def new_model(architecture: str, inputs: Array, num_classes: int) -> Any:
    """An untrained surrogate for the attacker's inputs.

    Args:
        architecture: a name in `BY_KIND` for the kind of the inputs.
        inputs: the attacker's inputs, shape `(n, ...)`.
        num_classes: number of classes.

    Raises:
        ArgumentError: there is no such architecture for this kind of inputs.
    """
    kind = input_kind(inputs)
    if architecture not in BY_KIND[kind]:
        raise ArgumentError(
            f"There is no architecture called {architecture!r} for {kind}. There are: {'; '.join(BY_KIND[kind])}."
        )
    return BY_KIND[kind][architecture](inputs.shape[1:] if kind == "images" else inputs, num_classes)
