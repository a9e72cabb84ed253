"""Small image classifiers of unrelated designs, for owner models and surrogates."""

from __future__ import annotations

from typing import Any

import keras

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


def _normalized_convolution(x: Any, filters: int, strides: int) -> Any:
    x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


ARCHITECTURES = {
    build.__name__: build for build in (pooled_cnn, separable_cnn, mlp, resnet, patch_mixer, vit, glyph_cnn)
}
