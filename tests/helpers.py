"""Small things that several tests make."""

from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def small_classifier(input_shape=(8, 8, 1), num_classes=10, seed=0):
    """A multi-layer perceptron with a softmax, as a Sequential model."""
    import keras

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(input_shape, name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(num_classes, activation="softmax"),
        ],
        name="classifier",
    )
