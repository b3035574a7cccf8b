"""The table of `measure-bulk`."""

from model_builder.measure.bulk import Run, table


def test_two_workers_are_compared_with_one():
    lines = table(1000, [Run(1, 100, 10, 300_000_000), Run(2, 50, 10, 500_000_000)]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["1", "100", "10", "10.0", "1.00", "1.00", "300"]
    assert cells[3] == ["2", "50", "10", "20.0", "2.00", "1.00", "500"]
