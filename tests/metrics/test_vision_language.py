"""A vision-language model of transformers as a yes/no detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rece_lightning import ConfigurationError
from rece_lightning.metrics import ConceptDetector, VisionLanguage, detected
from rece_lightning.metrics.pretrained import eight_bit

WORDS = ["<unk>", "<s>", "</s>", "<image>", "Does", "this", "picture", "show", "?", "Answer", "yes", "Yes", "or", "no",
         "No", ".", "bomb", "rose", "USER", "ASSISTANT", ":", "a", "gun"]  # fmt: skip
TEMPLATE = (
    "{% for one in messages %}USER : {% for part in one['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT :"
)


def processor(*, template: str | None, words: list[str] = WORDS) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    own = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip


def save(folder: Path, **settings: Any) -> Path:
    """A tiny random LLaVA."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(3)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=8, initializer_range=0.5,
        ),
        text_config=LlamaConfig(
            vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, initializer_range=0.3, pad_token_id=2,
        ),
        image_token_index=WORDS.index("<image>"),
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor(**settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[TEMPLATE, None], ids=["chat", "plain"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("vlm") / "tiny-llava", template=request.param)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.rand(12, 3, 20, 24, generator=torch.Generator().manual_seed(2))


def asked(folder: Path, pictures: Tensor, concepts: list[str]) -> Tensor:
    """By transformers alone, a picture at a time: softmax of the next token over yes, Yes, no and No."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    network, own = AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    found = []
    for picture, concept in zip(eight_bit(pictures), concepts, strict=True):
        text = f"Does this picture show {concept}? Answer yes or no."
        if own.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": text}]
            text = own.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        else:
            text = f"<image>\n{text}"
        inputs = own(
            images=picture, text=text, return_tensors="pt", images_kwargs={"input_data_format": "channels_last"}
        )
        with torch.no_grad():
            chances = network(**inputs).logits[0, -1].softmax(-1)
        yes, no = (sum(chances[WORDS.index(form)] for form in (word, word.capitalize())) for word in ("yes", "no"))
        found.append(float(yes / (yes + no)))
    return torch.tensor(found)


def test_detections_are_what_the_model_answers(folder: Path, pictures: Tensor) -> None:
    """Mixed concepts, in batches."""
    detector, concepts = VisionLanguage(str(folder), batch_size=3), ["bomb", "rose", "bomb", "gun"] * 3
    expected = asked(folder, pictures, concepts)
    detector.check("bomb")
    assert float((expected[0] - asked(folder, pictures[:1], ["gun"])[0]).abs()) > 1e-3  # the concept is read
    torch.testing.assert_close(detector.probabilities(pictures, concepts), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(detector.detect(pictures, concepts), expected > 0.5)
    middle = float(expected.sort().values[5:7].mean())
    raised = VisionLanguage(str(folder), threshold=middle)
    assert int(raised.detect(pictures, concepts).sum()) == 6
    black = torch.cat([pictures[:1], torch.zeros(1, 3, 20, 24)])
    assert not bool(detected(VisionLanguage(str(folder), threshold=0.0), black, ["bomb"] * 2)[1])


def test_aliases_are_asked_for(folder: Path, pictures: Tensor) -> None:
    detector = VisionLanguage(str(folder), aliases={"weapons": "gun"})
    found = detector.probabilities(pictures, ["weapons"] * len(pictures))
    torch.testing.assert_close(found, VisionLanguage(str(folder)).probabilities(pictures, ["gun"] * len(pictures)))


def test_it_says_what_it_measured_by() -> None:
    assert VisionLanguage("owner/SmolVLM").protocol == "vlm-yes>0.5 SmolVLM"
    other = VisionLanguage("owner/SmolVLM", question="Is it {}?", threshold=0.8)
    assert other.protocol == "vlm-yes>0.8 SmolVLM 'Is it {}?'"
    assert isinstance(other, ConceptDetector)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    for settings, named in (({"threshold": 1.0}, "threshold"), ({"question": "Is it?"}, "question")):
        with pytest.raises(ConfigurationError, match=rf"VisionLanguage\.{named}: "):
            VisionLanguage("model", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"VisionLanguage\.model: 'nowhere' is no folder"):
        VisionLanguage("nowhere").check("bomb")


def test_a_tokenizer_that_does_not_tell_yes_from_no_is_refused(tmp_path: Path) -> None:
    silent = save(tmp_path / "silent", template=None, words=[word if word.lower() != "yes" else "-" * place
                                                             for place, word in enumerate(WORDS)])  # fmt: skip
    with pytest.raises(ConfigurationError, match="does not tell yes from no"):
        VisionLanguage(str(silent)).check("bomb")
