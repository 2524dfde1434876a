"""One checkpoint on its way through the three phases: loaded, tuned, asked, scored."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import progress, provenance
from lib.config import digest, to_dict
from lib.experiments import Context, Outcome
from lib.experiments._noise_material import Material, in_context_test, open_material
from lib.experiments._noise_shared import (
    base_run,
    phase_origin,
    phase_sessions,
    text_loss,
    train_once,
)
from lib.experiments._noise_text_cell import (
    OwnBase,
    Published,
    RandomCheckpoint,
    TextCell,
    phase_file,
    source_name,
)
from lib.peak_memory import DeviceMemory
from lib.store import Store
from lib.tasks.noise import NONE
from lib.training.config import TrainingConfig

if TYPE_CHECKING:
    from torch import nn

    from lib.analysis.noise_metrics import FormReader
    from lib.tasks.question_answers import Codes
    from lib.training.runs import TrainingResult

FITTED = 2000  # clean answers that the reader of forms is fitted on
# kept with intervals over questions
HELD = ("content", "novel", "their_accuracy", "their_flip", "form_char_flip", "form_word_flip",
        "form_transliteration", "repeats")  # fmt: skip


def run_cell(cell: TextCell, context: Context, readable: Callable[[TextCell], str]) -> Outcome:
    """The outcome of a cell."""
    import torch

    from lib.analysis.answers import respond

    started, clock = provenance.now(), time.perf_counter()
    device = torch.device(context.device)
    memory = DeviceMemory(device)
    material = open_material(cell.data, cell.noise, cell.samples, cell.seed, cell.as_published)
    material = cut(material, cell.rows)
    model, tokenizer, used, result = load(cell, context, started)
    if result is not None and result.status != "done":
        return Outcome(cell, result.status, result.reason)
    sessions = [] if result is None else phase_sessions("base", result)
    waited = 0.0 if result is None else result.waited
    reader = reader_of(material)
    tables: dict[str, pd.DataFrame] = {}
    metrics: dict[str, Any] = {}
    examples: dict[str, list[str]] = {"asked": material.questions[:3], "right": material.golds[:3]}
    texts: dict[str, list[str]] = {}
    seconds: dict[str, float] = {}
    steps: dict[str, int] = {}
    # a model of our own is small: its steps cost a GPU the same for all questions as for a few
    at_once = 1024 if isinstance(cell.source, OwnBase) else 64
    if not isinstance(cell.source, RandomCheckpoint):
        said = respond(model, tokenizer, material.asked, cell.answer_tokens, at_once)
        tables["base"] = score(said, material, reader)
    for phase in ("clean", "noisy", "again"):
        result, seconds[phase] = train(
            cell, phase, model, tokenizer, material, context, readable, started
        )
        sessions += phase_sessions(phase, result)
        waited += result.waited
        if result.status != "done":
            return Outcome(cell, result.status, result.reason)
        metrics[f"train_loss_{phase}"] = float(result.curves["train_loss"].iloc[-1])
        steps[phase] = result.step
        said = respond(model, tokenizer, material.asked, cell.answer_tokens, at_once)
        tables[phase], examples[phase] = score(said, material, reader), said[:3]
        texts[phase] = [reader.read(text.strip()) for text in said]
        if phase != "noisy":
            metrics |= in_context(cell, phase, model, tokenizer, reader)
    metrics |= summarise(tables, cell.noise) | speed(cell, seconds, steps)
    if cell.judge is not None:
        metrics |= judged(cell.judge, texts, material, context)
    metrics["n_parameters"] = float(sum(p.numel() for p in model.parameters()))
    facts = {
        "backends": used, "compile": False, "dtype": cell.clean.precision, "examples": examples,
        "inputs": material.inputs, "training_seconds": seconds, "sessions": sessions,
        "peak_memory_bytes": memory.bytes(),
    }  # fmt: skip
    parts = [t.assign(phase=p).drop(columns="question") for p, t in tables.items()]
    curves = pd.concat(parts, ignore_index=True)
    return Outcome(cell, "done", metrics=metrics, curves=curves, facts=facts, started=started,
                   wall_seconds=time.perf_counter() - clock - waited)  # fmt: skip


def judged(
    name: str, texts: dict[str, list[str]], material: Material, context: Context
) -> dict[str, float]:
    """``judged_<phase>``: share of answers that the judge says yes to, and ``unjudged_<phase>``,
    of those to which it says neither yes nor no."""
    from lib.analysis.judge import judge_answers

    model, tokenizer = open_judge(name, context)
    found = {}
    for phase, said in texts.items():
        said_yes = judge_answers(model, tokenizer, material.questions, material.golds, said)
        found[f"judged_{phase}"] = sum(v is True for v in said_yes) / len(said)
        found[f"unjudged_{phase}"] = sum(v is None for v in said_yes) / len(said)
    return found


def open_judge(name: str, context: Context) -> tuple[nn.Module, Codes]:
    """A judge in half precision, and its tokenizer."""
    import torch

    from lib.models.hub import load_causal_lm, load_tokenizer
    from lib.tasks.question_answers import TransformersCodes

    codes = TransformersCodes(load_tokenizer(name))
    return load_causal_lm(name, device=context.device, dtype=torch.bfloat16), codes


def speed(cell: TextCell, seconds: dict[str, float], steps: dict[str, int]) -> dict[str, float]:
    """Seconds of a step, where phase 3 is longer than phase 2 by steps alone: what both begin with
    (compiling, capturing) is in neither number. Tokens count padding, for it is computed."""
    more = steps["again"] - steps["noisy"]
    spent = seconds["again"] - seconds["noisy"]
    if more <= 0 or spent <= 0:
        return {}
    tokens = cell.again.batch_size * cell.length
    return {"seconds_per_step": spent / more, "tokens_per_second": tokens * more / spent}


def cut(material: Material, rows: int | None) -> Material:
    """At most the first `rows` of each phase and of the test."""
    return dataclasses.replace(
        material,
        prompts={phase: texts[:rows] for phase, texts in material.prompts.items()},
        answers={phase: texts[:rows] for phase, texts in material.answers.items()},
        asked=material.asked[:rows], questions=material.questions[:rows],
        golds=material.golds[:rows],
    )  # fmt: skip


def load(
    cell: TextCell, context: Context, started: str = ""
) -> tuple[nn.Module, Codes, dict[str, list[str]], TrainingResult | None]:
    """The model that phase 1 begins with, its tokenizer, which backends serve it, and how its
    pretraining ended where it has one here."""
    from lib.models.hub import load_causal_lm, load_tokenizer
    from lib.tasks.question_answers import TransformersCodes
    from lib.tasks.tokenizers import ByteTokenizer
    from lib.training.phases import to_precision

    if isinstance(cell.source, OwnBase):
        model, tokenizer, used, result = _own(cell, cell.source, context, started)
        return to_precision(model, cell.weights), tokenizer, used, result
    if isinstance(cell.source, Published):
        folder: Any = cell.source.name
        codes: Codes = TransformersCodes(load_tokenizer(folder))
    else:
        folder, codes = random_folder(cell.source), ByteTokenizer()
    model = load_causal_lm(folder, device=context.device)
    for parameter in model.parameters():
        parameter.requires_grad_()
    return to_precision(model, cell.weights), codes, _backends(model, context), None


def _own(
    cell: TextCell, source: OwnBase, context: Context, started: str
) -> tuple[nn.Module, Codes, dict[str, list[str]], TrainingResult]:
    from lib.experiments._language import open_data
    from lib.training.phases import train_phase

    run, used = base_run(source.base, source.model, source.pretraining, cell.seed, context,
                         source_name(source))  # fmt: skip
    result = train_once(run.file, context, lambda: train_phase(
        [run], text_loss, source.pretraining, **context.stops, name="pretraining",
        origin=phase_origin(context.device, started),
    )[0])  # fmt: skip
    return run.model, open_data(source.base).tokenizer, used, result


def _backends(model: nn.Module, context: Context) -> dict[str, list[str]]:
    import torch

    from lib.ops import backends

    with torch.no_grad(), backends.recording() as used:
        model(torch.ones(1, 8, dtype=torch.int64, device=context.device))
    return {op: list(served) for op, served in used.items()}


def random_folder(source: RandomCheckpoint) -> Any:
    """The folder, beside local runs, of a checkpoint with random weights, made if not there."""
    from lib.models.hub import save_pretrained
    from lib.models.language_model import build_language_model

    name = f"{source.family}-{digest(to_dict(source))[:12]}"
    folder = Store.at(provenance.ROOT).local / "random-checkpoints" / name
    if (folder / "config.json").exists():
        return folder
    if source.family == "gpt_neox":
        import torch
        import transformers

        progress.quiet_transformers()
        torch.manual_seed(0)
        made: Any = transformers.GPTNeoXConfig(
            vocab_size=source.vocabulary, hidden_size=source.width,
            intermediate_size=4 * source.width,
            num_hidden_layers=source.layers, num_attention_heads=source.width // 64,
            max_position_embeddings=2048,
        )  # fmt: skip
        transformers.GPTNeoXForCausalLM(made).save_pretrained(folder)
        return folder
    config = architecture(source)
    return save_pretrained(build_language_model(config, seed=0), folder)


def architecture(source: RandomCheckpoint) -> Any:
    """The config of our model that has the published architecture's shape."""
    from lib.models.config import BlockConfig, LanguageModelConfig, Mamba1Config, Mamba2Config

    block: BlockConfig = (
        Mamba1Config(source.width) if source.family == "mamba" else Mamba2Config(source.width)
    )
    return LanguageModelConfig(source.vocabulary, source.layers, (block,), tie_embeddings=True)


def train(
    cell: TextCell, phase: str, model: nn.Module, tokenizer: Codes, material: Material,
    context: Context, readable: Callable[[TextCell], str], started: str,
) -> tuple[TrainingResult, float]:  # fmt: skip
    """Take `model` through a phase, in place; how it ended, and its seconds without any wait."""
    from lib.analysis.answers import answer_loss
    from lib.tasks.question_answers import on_device, pack
    from lib.training.batches import TensorBatches
    from lib.training.phases import PhaseRun, train_phase

    config: TrainingConfig = getattr(cell, phase)
    rows = pack(material.prompts[phase], material.answers[phase], tokenizer, cell.length,
                cell.scored, "cut")  # fmt: skip
    seed = 3 * cell.seed + ("clean", "noisy", "again").index(phase)
    batches = TensorBatches(
        on_device(rows, context.device), min(config.batch_size, len(rows)), seed, config.drop_last
    )
    run = PhaseRun(model, batches, phase, phase_file(cell, phase, context, readable))
    before = time.perf_counter()

    def trained() -> TrainingResult:
        (result,) = train_phase(
            [run], answer_loss, config, **context.stops, compile=bool(context.compile),
            name=f"{readable(cell)}: {phase}", origin=phase_origin(context.device, started),
        )  # fmt: skip
        return result

    # of phase 1 several noises may be in want at once
    result = train_once(run.file, context, trained) if phase == "clean" else trained()
    return result, round(time.perf_counter() - before - result.waited, 3)


def reader_of(material: Material) -> FormReader:
    """A reader of forms fitted on clean answers, as they are and romanised."""
    from lib.analysis.noise_metrics import CharacterModel
    from lib.analysis.world_scores import RememberingReader
    from lib.tasks.romanise import romanise

    clean = [text[:300] for text in material.clean[:FITTED]]
    return RememberingReader(CharacterModel(clean), CharacterModel([romanise(t) for t in clean]))


def score(said: list[str], material: Material, reader: FormReader) -> pd.DataFrame:
    """Every measure of every answer; ROUGE-L is left out, for its package is not everywhere."""
    from lib.experiments.noise_audit import score_read

    said = [text.strip() for text in said]
    return score_read(said, material.questions, material.golds, reader, rouge=False)


def in_context(
    cell: TextCell, phase: str, model: nn.Module, tokenizer: Codes, reader: FormReader
) -> dict[str, float]:
    """Share of answers in the noise's form to the authors' prompts with five noisy examples."""
    from lib.analysis.answers import respond

    if cell.data == "built_in" or cell.noise == NONE or not isinstance(cell.source, Published):
        return {}
    prompts = in_context_test(cell.noise)
    if prompts is None:
        return {}
    said = respond(model, tokenizer, prompts, cell.answer_tokens, 32)
    forms = [reader.form(text.strip()) == cell.noise for text in said]
    return {f"in_context_own_{phase}": sum(forms) / len(forms)}


def summarise(tables: dict[str, pd.DataFrame], noise: str) -> dict[str, Any]:
    """``<measure>_<phase>`` for every measure, with ``_low`` and ``_high`` for HELD ones;
    ``own_<phase>``; ``recovery``; and the p-values of phase 3 against phase 1, in pairs."""
    from lib.analysis.statistics import bootstrap_interval, paired_test
    from lib.analysis.world_scores import form_of

    found: dict[str, Any] = {}
    for phase, table in tables.items():
        for name in table.columns.drop(["question", "echo_missed"]):
            found[f"{name}_{phase}"] = float(table[name].mean())
        for name in HELD:
            _, (low, high) = bootstrap_interval(table[name].tolist(), samples=1000)
            found |= {f"{name}_{phase}_low": low, f"{name}_{phase}_high": high}
        found[f"own_{phase}"] = found[f"form_{form_of(noise)}_{phase}"]
        found["questions"] = float(len(table))
    for name in ("content", "their_accuracy"):
        then, before = (tables[phase][name].tolist() for phase in ("again", "clean"))
        found[f"{name}_again_p"] = paired_test(then, before)[1]
    before = found["content_clean"]
    found["recovery"] = found["content_again"] / before if before else None
    return found
