"""What a data set holds: numbers of objects, their classes and sizes, and how the splits differ."""

from detcore.data.statistics.describing import SplitStatistics, Statistics, describe

__all__ = ["SplitStatistics", "Statistics", "describe"]
