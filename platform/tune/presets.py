"""The ablations by name: Supplementary Tables 1 to 8 of the paper, and what it names as future work.

Each function says in its docstring what is expected, the command, and what it costs at paper size (13.9 million training
pairs; 'biomedray tune PAIRS OUT --ablation NAME --scale paper --plan' counts it) and at small size: minutes a trial on
two CPU cores with a generated corpus of some hundred articles. That asks the same question of a small model.
"""

from __future__ import annotations

from collections.abc import Callable

from biomedray.errors import UserError
from biomedray.tune.ablation import LOSS, RETRIEVAL, SECONDS, TIMES, TO_IMAGE, TO_TEXT, Ablation, Arm, Scale, Variant

_Base = dict[Scale, tuple[str, tuple[str, ...]]]

_SMALL = ("train.max_seconds=null", "train.epochs=12", "train.batch_size=64", "train.warmup_steps=40")
_SMOKE = (
    *("train.max_seconds=null", "train.epochs=2", "train.batch_size=16", "train.warmup_steps=2", "train.log_every=1"),
    *("model.image_size=64", "model.vocab_size=1024", "data.val_pairs=64"),
)


def _base(epochs: int, paper: str = "biomedclip") -> _Base:
    return {"paper": (paper, (f"train.epochs={epochs}",)), "small": ("small", _SMALL), "smoke": ("small", _SMOKE)}


def _arms(paper: Arm, small: Arm, smoke: Arm | None = None) -> dict[Scale, Arm]:
    return {"paper": paper, "small": small, "smoke": smoke or small}


def _found(loss: float | None, to_text: float, to_image: float) -> dict[str, float]:
    """A row of the paper's numbers; recalls in percent there, shares here."""
    shares = {TO_TEXT.key: to_text / 100, TO_IMAGE.key: to_image / 100}
    return shares if loss is None else {LOSS.key: loss, **shares}


def context_length() -> Ablation:
    """Supplementary Table 1: a domain's own text tower beats CLIP's, and 256 tokens beat 77.

    ``biomedray tune PAIRS OUT --ablation context-length``. Paper size: 3 runs of 8 epochs. Small size: three runs of some
    minutes; ``biomedray corpus OUT --long-captions 1`` makes captions that say late what is seen.
    """
    none = "model.text_tower=null"
    return Ablation(
        name="context-length",
        source="Supplementary Table 1",
        hypothesis="Words of the domain and the whole caption both help: GPT/77 < PubMedBERT/77 < PubMedBERT/256.",
        expected="GPT/77 64.53/63.56, PubMedBERT/77 69.03/67.41, PubMedBERT/256 73.50/72.26.",
        header=("text encoder", "vocab", "context length"),
        variants=(
            Variant(
                "gpt-77",
                _arms(
                    Arm(("GPT", "50k general domain", "77"), ("model.name=biomedclip_vitb16_gpt77", none)),
                    Arm(("small transformer", "50k general domain", "77"), ("model.name=small_gpt77",)),
                ),
                _found(0.6626, 64.53, 63.56),
            ),
            Variant(
                "pubmedbert-77",
                _arms(
                    Arm(("PubMedBERT", "30k domain specific", "77"), ("model.context_length=77",)),
                    Arm(("small transformer", "of the captions", "77"), ("model.context_length=77",)),
                ),
                _found(0.5776, 69.03, 67.41),
            ),
            Variant(
                "pubmedbert-256",
                _arms(
                    Arm(("PubMedBERT", "30k domain specific", "256"), ("model.context_length=256",)),
                    Arm(("small transformer", "of the captions", "256"), ("model.context_length=256",)),
                ),
                _found(0.4807, 73.50, 72.26),
            ),
        ),
        base=_base(8),
    )


def vit_size() -> Ablation:
    """Supplementary Table 2: a larger ViT is better.

    ``biomedray tune PAIRS OUT --ablation vit-size``. Paper size: 3 runs of 8 epochs. Small size: ViTs of 4 layers at the same
    ratio of widths, some minutes each.
    """
    rows = (("s", "22M", "384", "96", 0.5342, 69.45, 68.02), ("m", "39M", "512", "128", 0.5063, 71.85, 70.22))
    variants = [
        Variant(
            f"vit-{letter}",
            _arms(
                Arm((f"ViT-{letter.upper()}/16", size, width), (f"model.name=biomedclip_vit{letter}16_pubmedbert256",)),
                Arm((f"small ViT ({letter.upper()})", "", small), (f"model.name=small_vit_{letter}",)),
            ),
            _found(loss, to_text, to_image),
        )
        for letter, size, width, small, loss, to_text, to_image in (*rows, ("b", "86M", "768", "192", 0.4807, 73.50, 72.26))
    ]
    return Ablation(
        name="vit-size",
        source="Supplementary Table 2",
        hypothesis="With enough pairs the larger picture tower wins; with a few thousand it need not.",
        expected="ViT-S 69.45/68.02, ViT-M 71.85/70.22, ViT-B 73.50/72.26.",
        header=("vision encoder", "trainable params", "hidden dim"),
        variants=tuple(
            # The largest is the preset's own tower under the preset's own name.
            Variant(v.name, {**v.arms, "paper": Arm(("ViT-B/16", "86M", "768"))}, v.paper) if v.name == "vit-b" else v
            for v in variants
        ),
        base=_base(8),
    )


def init() -> Ablation:
    """Supplementary Table 3: ImageNet's weights bring no advantage over random ones at this size.

    ``biomedray tune PAIRS OUT --ablation init --image-weights FILE`` (or ``timm`` to download them). Paper size: 2 runs of 32
    epochs. Small size: the small ResNet, for which timm has weights of ImageNet (test_resnet.r160_in1k).
    """
    random = ("model.image_weights=null",)
    given = ("model.image_weights=<image_weights>",)
    return Ablation(
        name="init",
        source="Supplementary Table 3",
        hypothesis="Few pairs gain from pretrained weights; with millions the start is forgotten.",
        expected="random 83.15/81.75, ImageNet 82.90/81.86: no difference to speak of.",
        header=("vision encoder", "initialization"),
        variants=(
            Variant(
                "random",
                _arms(Arm(("ViT-B/16", "random initialization"), random), Arm(("small ResNet", "random initialization"), random)),
                _found(0.3814, 83.15, 81.75),
            ),
            Variant(
                "imagenet",
                _arms(Arm(("ViT-B/16", "pretrained on ImageNet"), given), Arm(("small ResNet", "pretrained on ImageNet"), given)),
                _found(0.3819, 82.90, 81.86),
            ),
        ),
        base=_base(32),
    )


def image_size() -> Ablation:
    """Supplementary Tables 4 and 5: 384 pixels find more and take twice as long, but classify no better.

    ``biomedray tune PAIRS OUT --ablation image-size --zeroshot pcam=FOLDER`` (and lc25000_lung, lc25000_colon, tcga_til,
    rsna; these names get the paper's numbers beside them). Paper size: 2 runs of 32 epochs, of
    1 and 1.92 times the work. Small size: 112 against 192 pixels, of 1 and 2.9 times the work.
    """

    def variant(paper: int, small: int, smoke: int, numbers: dict[str, float]) -> Variant:
        arms = {
            scale: Arm((f"{px}px",), (f"model.image_size={px}",)) for scale, px in zip(_ORDER, (paper, small, smoke), strict=True)
        }
        return Variant(f"px-{paper}", arms, numbers)

    return Ablation(
        name="image-size",
        source="Supplementary Tables 4 and 5",
        hypothesis="More pixels help to tell figures apart, at the price of time; coarse classes don't need them.",
        expected="224: 82.90/81.86; 384: 84.63/83.56 in 1.92 times the time; zero-shot mean 75.52 against 70.37.",
        header=("image size",),
        variants=(
            variant(224, 112, 64, _found(0.3819, 82.90, 81.86) | _classified(1.00, 73.41, 65.23, 92.98, 67.04, 78.95)),
            variant(384, 192, 96, _found(0.3406, 84.63, 83.56) | _classified(1.92, 67.15, 61.80, 87.42, 57.00, 78.49)),
        ),
        base=_base(32),
        metrics=(SECONDS, TIMES, *RETRIEVAL),
    )


def _classified(times: float, *numbers: float) -> dict[str, float]:
    """Training time, and Table 5's columns for sets that ``--zeroshot`` gives these names; AUROC for TCGA-TIL, else accuracy."""
    names = ("pcam", "lc25000_lung", "lc25000_colon", "tcga_til_auroc", "rsna")
    shares = {f"val_zeroshot_{name}": number / 100 for name, number in zip(names, numbers, strict=True)}
    return {TIMES.key: times, **shares}


_ORDER: tuple[Scale, ...] = ("paper", "small", "smoke")


def batch_size() -> Ablation:
    """Supplementary Table 6: 4k pairs in a batch are better than 2k.

    ``biomedray tune PAIRS OUT --ablation batch-size``. Paper size: 2 runs of 32 epochs. Small size: 32 against 64.
    """

    def variant(name: str, sizes: tuple[int, int, int], numbers: dict[str, float]) -> Variant:
        names = (name, str(sizes[1]), str(sizes[2]))
        arms = {
            scale: Arm((shown,), (f"train.batch_size={size}",)) for scale, shown, size in zip(_ORDER, names, sizes, strict=True)
        }
        return Variant(f"batch-{name}", arms, numbers)

    return Ablation(
        name="batch-size",
        source="Supplementary Table 6",
        hypothesis="More negatives in a batch make the task harder and the vectors better, at equal pairs seen.",
        expected="2k 79.69/78.43, 4k 82.90/81.86.",
        header=("batch size",),
        variants=(
            variant("2k", (2048, 32, 8), _found(None, 79.69, 78.43)),
            variant("4k", (4096, 64, 16), _found(None, 82.90, 81.86)),
        ),
        base=_base(32),
    )


def batch_schedule() -> Ablation:
    """Supplementary Table 7: batches that grow from 4k to 64k after a fifth of the epochs help retrieval.

    ``biomedray tune PAIRS OUT --ablation batch-schedule``. Paper size: 2 runs of 40 epochs. Small size: 64 against 64 then 256,
    15 epochs.
    """
    small = ("small", (*_SMALL, "train.epochs=15"))
    smoke = ("small", (*_SMOKE, "train.epochs=3"))
    return Ablation(
        name="batch-schedule",
        source="Supplementary Table 7",
        hypothesis="Large batches late: coarse distinctions are learnt by then, and many negatives teach the fine ones.",
        expected="4k -> 4k 83.98/82.71, 4k -> 64k 87.32/86.66.",
        header=("batch size",),
        variants=(
            Variant(
                "constant",
                {
                    "paper": Arm(("4k→4k",), ("train.batch_schedule=[]",)),
                    "small": Arm(("64→64",)),
                    "smoke": Arm(("16→16",)),
                },
                _found(None, 83.98, 82.71),
            ),
            Variant(
                "growing",
                {
                    "paper": Arm(("4k→64k",)),
                    "small": Arm(("64→256",), ("train.batch_schedule=[[3, 256]]",)),
                    "smoke": Arm(("16→32",), ("train.batch_schedule=[[1, 32]]",)),
                },
                _found(None, 87.32, 86.66),
            ),
        ),
        base={"paper": ("biomedclip-64k", ()), "small": small, "smoke": smoke},
    )


def model() -> Ablation:
    """Supplementary Table 8: a general model knows little of biomedicine, and training it on or anew both mend that.

    ``biomedray tune PAIRS OUT --ablation model``. Paper size: OpenAI's two models as they are, 3 runs of 32
    epochs. Small size: the general model is one that you name (``--general MODEL``), such as one of other topics.
    """
    rn50 = ("model.name=clip_rn50_gpt77", "model.clip_weights=openai", "model.text_tower=null", "model.image_weights=null")
    vitb = ("model.name=clip_vitb16_gpt77", *rn50[1:])
    general = ("model.init_from=<general>",)
    clip, biomed, both = "WIT-400M", "ImageNet/PubMed → PMC-15M", "WIT-400M → PMC-15M"
    return Ablation(
        name="model",
        source="Supplementary Table 8",
        hypothesis="General models fail on articles' figures; going on from one, or from the domain's towers, ends alike.",
        expected="CLIP 10.31/10.38 (RN50), 11.82/11.65 (ViT-B); trained on 81.17/80.17, 81.57/80.89; BiomedCLIP 82.90/81.86.",
        header=("model", "config", "data"),
        variants=(
            Variant(
                "rn50-as-it-is",
                {"paper": Arm(("OpenAI CLIP", "ResNet-50-224-GPT/77", clip), rn50, trains=False)},
                _found(None, 10.31, 10.38),
            ),
            Variant(
                "general-as-it-is",
                _arms(
                    Arm(("OpenAI CLIP", "ViT-B/16-224-GPT/77", clip), vitb, trains=False),
                    Arm(("general model", "as given", "its own"), general, trains=False),
                ),
                _found(None, 11.82, 11.65),
            ),
            Variant(
                "rn50-trained-on",
                {"paper": Arm(("BiomedCLIP", "ResNet-50-224-GPT/77", both), rn50)},
                _found(None, 81.17, 80.17),
            ),
            Variant(
                "general-trained-on",
                _arms(
                    Arm(("BiomedCLIP", "ViT-B/16-224-GPT/77", both), vitb),
                    Arm(("general model", "as given", "its own → these pairs"), general),
                ),
                _found(None, 81.57, 80.89),
            ),
            Variant(
                "domain",
                _arms(
                    Arm(("BiomedCLIP", "ViT-B/16-224-BERT/256", biomed)),
                    Arm(("small", "ResNet-112-transformer/128", "these pairs")),
                ),
                _found(None, 82.90, 81.86),
            ),
        ),
        base=_base(32),
    )


def patch_dropout() -> Ablation:
    """The main text names FLIP's patch dropout; here with shares that FLIP tried.

    ``biomedray tune PAIRS OUT --ablation patch-dropout``. Paper size: 4 runs of 8 epochs, the picture tower's work falling with
    the share. Small size: on the small ViT.
    """
    return Ablation(
        name="patch-dropout",
        source="main text (FLIP); shares after Li et al., arXiv 2212.00794",
        hypothesis="Half of the patches can be left out at little loss of R@1 and much gain of time.",
        expected="FLIP: 50 % costs next to nothing at equal epochs, 75 % costs some.",
        header=("patches left out",),
        variants=tuple(
            Variant(
                f"drop-{percent}",
                _arms(
                    Arm((f"{percent} %",), (f"model.patch_dropout={percent / 100}",)),
                    Arm((f"{percent} %",), ("model.name=small_vit_m", f"model.patch_dropout={percent / 100}")),
                ),
            )
            for percent in (0, 25, 50, 75)
        ),
        base=_base(8),
        metrics=(SECONDS, *RETRIEVAL),
    )


def citances() -> Ablation:
    """Future work of the paper: sentences that cite a figure as further text for it.

    ``biomedray tune PAIRS OUT --ablation citances``. Paper size: 3 runs of 8 epochs. Small size: some minutes each.
    """
    rows = (
        ("caption", "caption", ""),
        ("after", "caption + citance", "citance_after"),
        ("instead", "caption or citance", "citance_instead"),
    )
    return Ablation(
        name="citances",
        source="future work (in-text mentions)",
        hypothesis="Citances say in other words what is seen, so a share of them helps; too much of them hides the caption.",
        expected="not in the paper.",
        header=("text",),
        variants=tuple(
            Variant(name, _arms(arm := Arm((shown,), (f"data.text={text}",) if text else ()), arm)) for name, shown, text in rows
        ),
        base=_base(8),
    )


def panels() -> Ablation:
    """Future work of the paper: single panels with their part of the caption instead of whole figures.

    ``biomedray tune PAIRS OUT --ablation panels`` on fine-grained rows (``biomedray refine``). Paper size: 2 runs of 8 epochs.
    """
    rows = (("figures", "figure, caption", "caption"), ("panels", "panel, sub-caption", "panel"))
    return Ablation(
        name="panels",
        source="future work (PMC-Fine-Grained-46M)",
        hypothesis="A panel with its own words is a cleaner pair than a figure with all of them.",
        expected="not in the paper.",
        header=("pairs",),
        variants=tuple(Variant(name, _arms(arm := Arm((shown,), (f"data.text={text}",)), arm)) for name, shown, text in rows),
        base=_base(8),
    )


def loss() -> Ablation:
    """Not in the paper: SigLIP's loss against InfoNCE at equal pairs seen.

    ``biomedray tune PAIRS OUT --ablation loss``. Paper size: 2 runs of 8 epochs. Small size: some minutes each.
    """
    rows = (("infonce", "InfoNCE"), ("siglip", "SigLIP"))
    return Ablation(
        name="loss",
        source="our own question (Zhai et al., arXiv 2303.15343)",
        hypothesis="With small batches SigLIP's yes or no for each combination is better; at 4k they are alike.",
        expected="not in the paper.",
        header=("loss",),
        variants=tuple(Variant(name, _arms(arm := Arm((shown,), (f"train.loss={name}",)), arm)) for name, shown in rows),
        base=_base(8),
        metrics=(TO_TEXT, TO_IMAGE),
    )


ABLATIONS: dict[str, Callable[[], Ablation]] = {
    make().name: make
    for make in (
        *(context_length, vit_size, init, image_size, batch_size, batch_schedule, model),
        *(patch_dropout, citances, panels, loss),
    )
}


def ablation(name: str) -> Ablation:
    """The ablation of that name.

    Raises:
        UserError: there is none; the line lists those there are.
    """
    if name not in ABLATIONS:
        raise UserError(f"--ablation {name}: no such ablation; there are {', '.join(ABLATIONS)}")
    return ABLATIONS[name]()
