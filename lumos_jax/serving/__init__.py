"""A trained run as a service: scores, forecasts, next events, embeddings.

  lumos serve --workdir=runs/pretrain

store.py keeps users, encoder.py reads their events, model.py predicts with the
run's `Predictor`, scorer.py joins them, app.py speaks HTTP. See docs/serving.md.
"""
