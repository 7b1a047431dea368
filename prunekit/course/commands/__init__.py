"""`prunekit run PAPER`: a module for each paper, with its arguments (`add_to`) and its run (`run_with`).

They stand apart from the experiments, whose imports are heavy: the command line answers at once.
"""
