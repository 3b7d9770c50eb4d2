"""Row norm: every weight scored by the norm of its output row."""

from brittle_eval import Attribution, hookimpl


class RowNorm(Attribution):
    """`‖W_i‖₂`: all entries of an output row get its norm."""

    def finish(self, state, weight):
        return weight.value.float().norm(dim=1, keepdim=True).expand_as(weight.value)


@hookimpl
def brittle_attributions():
    return {"row-norm": RowNorm}
