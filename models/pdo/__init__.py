"""PDO-eConv (Shen, He, Lin & Ma, ICML 2020, arXiv:2007.10408): stencils, operators and layers."""
