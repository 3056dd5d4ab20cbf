"""A stop that tests can place."""

from scorelab.runs.signals import StopFlag


class StopAfter(StopFlag):
  """A stop that comes after this many questions, as a signal would between two chunks."""

  def __init__(self, questions):
    super().__init__()
    self._left = questions

  @property
  def requested(self):
    self._left -= 1
    return self._left < 0

  @requested.setter
  def requested(self, value):
    del value
