"""Keys of recipe "llm4es" (models/llama.py, llm/), and sizes from nothing."""

import ml_collections

from lumos_jax.config import limits

# Models that begin at random weights, over bytes. "3b" has Llama 3.2's sizes: to
# see by preflight what a slice holds.
SIZES = {
  "tiny": dict(
    model=dict(
      weights="", vocabulary=258, d_model=32, d_ff=64, n_layers=2, n_heads=4,
      n_kv_heads=2, head_width=8, pool_layers=2, dtype="float32",
    ),
    data=dict(sequence_length=128, segments=8),
    optimizer=dict(learning_rate=1e-3),
    train=dict(batch_size=4),
  ),
  "3b": dict(
    model=dict(
      weights="", vocabulary=128_256, d_model=3072, d_ff=8192, n_layers=28,
      n_heads=24, n_kv_heads=8, head_width=128, rope_theta=500_000.0,
      dtype="bfloat16", scan_layers=True, remat="full", pool_layers=8,
    ),
    data=dict(sequence_length=8192, segments=32),
    train=dict(batch_size=16),
    mesh=dict(data=1, fsdp=-1),
    eval_batch_size=1,
  ),
}  # fmt: skip

FREE = ()
LIMITS = {
  "data.sequence_length": limits.at_least(8),
  "data.segments": limits.at_least(1),
  "data.holdout_share": limits.SHARE,
  "model.lora_rank": limits.at_least(0),
  "objective.chunk": limits.at_least(1),
}


def texts(d: ml_collections.ConfigDict) -> None:
  """Keys of config.data that llm/inputs.py reads."""
  d.target = ""  # Categorical field that probes count, beside the embedding.
  d.sequence_length = 1024  # T, tokens of a row; older events are cut.
  d.segments = 32  # Texts that share a row at most.
  # Users of train_split that fine-tuning does not see, for perplexity.
  d.holdout_share = 0.1
  # Folder of texts of python -m lumos_jax.llm.enrich to train on; "": told here.
  d.written = ""
  d.text = ml_collections.ConfigDict(
    dict(
      form="table",  # Of the base text; see lumos_jax/llm/forms.py.
      fields=(),  # Of the events, in this order; () for all.
      profile=(),  # Fields of the profile that the text opens with.
      names=True,  # Readable names; False: codes as in the data.
      decimals=2,  # Of numbers, truncated; -1: all there are.
      time="day",  # none, day, minute, second, exact.
      group="",  # Field whose values are headings in form "grouped".
      # Training mixes forms and names; embeddings are of the base text.
      forms=(),  # Drawn from; () for all.
      base_share=0.25,  # Of texts in the base form and names; 1: no other.
      lexicon_share=0.5,  # Of the others, with names from the lexicon.
      summary_share=0.25,  # Of the others, with a summary behind the events.
    )
  )


def defaults(c: ml_collections.ConfigDict) -> None:
  """Adds LLM4ES' keys to a config that has the common ones."""
  texts(c.data)

  m = c.model
  # A directory with config.json and *.safetensors, a .gguf file, "smollm2", or
  # "" for random weights of the sizes below, over bytes.
  m.weights = "smollm2"
  m.vocabulary = 258
  m.d_model = 256
  m.d_ff = 1024
  m.n_layers = 8
  m.n_heads = 8
  m.n_kv_heads = 4
  m.head_width = 32
  m.rope_theta = 10_000.0
  m.tied = True  # The output's table is the input's.
  m.lora_rank = 0  # Of adapters beside frozen weights; 0 trains all weights.
  m.lora_alpha = 16.0  # Their outputs are scaled by alpha / rank.
  m.lora_on = ("q", "v")  # Among q, k, v, o, gate, up, down.
  m.pool_layers = 8  # k: the embedding is the mean of the last k hidden states.
  m.pool_layer = -1  # Or of this one alone: 0 the tokens' embedding.
  m.pool = "mean"  # Over the text's tokens, or "last".
  m.attention_kernel = "auto"  # xla, splash (TPU), cudnn (GPU).
  m.scan_layers = True  # Compile one block and scan it.
  m.remat = "full"  # none, dots, full: less memory, more computation.
  m.dtype = "float32"  # Of computation; bfloat16 on TPU and GPU.

  c.objective.chunk = 512  # Tokens whose logits exist at a time.

  # As published: 1e-5, cosine, AdamW (.9, .95), clip 1.
  o = c.optimizer
  o.learning_rate, o.b1, o.b2, o.clip_norm = 1e-5, 0.9, 0.95, 1.0
  o.weight_decay, o.warmup_steps = 0.0, 20
  t = c.train
  t.batch_size, t.init_batches = 8, 1
  c.eval_batch_size = 8
