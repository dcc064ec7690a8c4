"""Small worlds with exact ground truth: generators, oracles and graders, deterministic by seed, in pure Python.

A world is a frozen value. `items(split, n)` yields plain dicts ({"id", "prompt", "answer", ...}) lazily and never twice the same; `records(split,
n)` yields the same things as training records; `grade(output, item)` is the oracle; `probe(...)` measures a model on the world. What is held out is
held out by construction: a test item's facts, numbers or wording cannot come up among the training items of the same world.

- `people.People`: fictitious people with facts, paraphrased and two-hop questions, biographies;
- `arithmetic.Arithmetic` and `arithmetic.WordProblems`: sums, differences, products and stories with worked steps;
- `preferences.Preferences`: pairs, ratings, labels and demonstrations under a gold reward, with exact label noise;
- `instructions.Instructions`: repeat, uppercase, count and the like;
- `tickets.Tickets`: customer messages to be turned into one strict line;
- `demo`: the sets that `make demo` trains on.
"""
