"""Built-in implementations of the losses: one idea to a file, nothing imports them by name.

Discovery reads every file here whose name does not begin with an underscore. Each opens with its formula and what is
good or bad about it; its claims stand in the decorator. torch and SciPy are imported inside the functions, so that a
file can be read, and its implementations listed, where they are not installed. ``np.errstate`` quiets NumPy's warnings:
an overflow is a result here, and the judge sees it.
"""
