"""Plain open_clip in a process that knows nothing of biomedray and has no network, as a user of an export has it.

Reads lines of JSON: [folder, file with images and texts, file for their embeddings]; answers each with a line: "" or
what is wrong.
"""

from __future__ import annotations

import io
import json
import socket
import sys


def refuse(*_: object, **__: object) -> None:
    raise OSError("no network here")


def embed(folder: str, given: str, out: str) -> None:
    import numpy as np
    import open_clip
    import torch
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + folder)
    tokenizer = open_clip.get_tokenizer("local-dir:" + folder)
    model.eval()
    found = np.load(given, allow_pickle=True)
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(io.BytesIO(data))) for data in found["images"]])
        images = model.encode_image(pixels, normalize=True).numpy()
        texts = model.encode_text(tokenizer(list(found["texts"])), normalize=True).numpy()
    np.savez(out, images=images, texts=texts)


if __name__ == "__main__":
    socket.socket.connect = refuse
    socket.getaddrinfo = refuse
    for line in sys.stdin:
        try:
            embed(*json.loads(line))
            wrong = "" if "biomedray" not in sys.modules else "it knows of biomedray"
        except Exception as error:  # noqa: BLE001  # the test is told, whatever it is
            wrong = repr(error)
        print("\n" + json.dumps(wrong), flush=True)
