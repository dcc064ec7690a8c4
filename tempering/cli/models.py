"""stub"""


def measure_command(*model: str) -> int:
    """Measure"""
    return 0


def compare_command(*model: str) -> int:
    """Compare"""
    return 0


def chat(model: str) -> int:
    """Chat"""
    return 0


def check(data: str) -> int:
    """Check"""
    return 0


def export(run: str) -> int:
    """Export"""
    return 0
