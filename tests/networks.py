"""Every published system, small enough for a test."""

MELS = 16
FRAMES = 24

SMALL = {
    "dcase2017_crnn": {"channels": [3, 4, 5], "gru_width": 4},
    "talnet": {"channels": [3, 4, 5, 4, 6], "gru_width": 4},
    "power_crnn": {"channels": [3, 4, 5], "gru_width": 4},
    "gmap_cnn": {"channels": [3, 4, 5, 8], "hidden_width": 6},
    "two_step_autoencoder": {"channels": [3, 4], "num_frames": FRAMES},
    "atrous_cnn": {"channels": [3, 4, 5], "backbone": "atrous"},
    "gated_crnn": {"channels": 3, "last_channels": 4, "gru_width": 4},
}
"""`build_model`'s options for each name, beside `mels=MELS`."""

VARIANTS = {
    **{name: (name, options) for name, options in SMALL.items()},
    "gated_crnn tagging": ("gated_crnn", {**SMALL["gated_crnn"], "task": "tagging"}),
    "atrous_cnn vgg": ("atrous_cnn", {"channels": [3, 3, 4, 4], "backbone": "vgg"}),
    "two_step_autoencoder code": (
        "two_step_autoencoder",
        {**SMALL["two_step_autoencoder"], "variant": "code"},
    ),
}
"""The systems and their forms: name and options."""
