"""Races: several methods of one family under the same tokens, the same tuning budget, the same data and the same seeds.

    plan.py     what is raced: methods, tokens, learning rates, seeds; the data cut into training, validation and test
    course.py   the runs, one after the other, each a run of the family's recipe in a folder of its own
    result.py   runs -> a lane for each method, with intervals; race.json
    picture.py  gain against kept as SVG;  page.py  race.html

`temper race` is the command. Nothing here trains: every run is the recipe's own.
"""
