"""From session vectors to intents: clusters, taxonomy, teacher, student.

S sessions, D width of a session vector, K clusters, L labels.
"""
