"""Removes what only training needs from a definition of a network: annotations, losses, training kernels."""

import ast

TRAINING_METHODS = {"loss", "token_losses"}
"""Methods of a Model that only training and evaluation call."""
KERNELS = "kernels"
"""Name that a network gives to the result of ``kernels_for``; None means that PyTorch's operations compute."""


def without_training_code(node: ast.stmt) -> ast.stmt:
    """Return the definition without annotations, without losses, and as if ``kernels_for`` returned None."""
    for transformer in (_WithoutKernels(), _WithoutAnnotations()):
        node = transformer.visit(node)
    return ast.fix_missing_locations(node)


class _WithoutKernels(ast.NodeTransformer):
    """Replace ``kernels is None`` by True and ``kernels is not None`` by False, and keep the branch that is taken."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        returns = [index for index, item in enumerate(node.body) if isinstance(item, ast.Return)]
        if returns:
            del node.body[returns[0] + 1 :]
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        if ast.unparse(node.targets[0]) == KERNELS:
            return None
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        match ast.unparse(node):
            case "kernels is None":
                return ast.Constant(True)
            case "kernels is not None":
                return ast.Constant(False)
            case _:
                return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decisive = isinstance(node.op, ast.Or)
        if any(isinstance(value, ast.Constant) and value.value is decisive for value in node.values):
            return ast.Constant(decisive)
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, ast.Constant):
            return node.body if node.test.value else node.orelse
        return node


class _WithoutAnnotations(ast.NodeTransformer):
    """Remove annotations, which need other libraries, and the methods of training."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            argument.annotation = None
        for argument in (arguments.vararg, arguments.kwarg):
            if argument is not None:
                argument.annotation = None
        node.returns = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        fields = any(ast.unparse(base).endswith("NamedTuple") for base in node.bases)
        fields = fields or any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        body: list[ast.stmt] = []
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name in TRAINING_METHODS:
                continue
            if isinstance(item, ast.AnnAssign) and fields:
                item.annotation = ast.Name("object", ast.Load())
                body.append(item)
            elif (kept := self.visit(item)) is not None:
                body.append(kept)
        node.body = body or [ast.Pass()]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.Assign([node.target], self.visit(node.value))
