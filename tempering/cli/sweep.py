"""stub"""


def command(spec, recipe):
    from tempering.cli.run import command

    return command(spec, recipe)
