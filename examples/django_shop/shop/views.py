"""What customers and staff do."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from django.contrib.auth.decorators import login_required, permission_required
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.db.models import F
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from indelible.context import context, wrap
from indelible.frameworks.django import record
from shop.models import Customer, Line, Order, Product

if TYPE_CHECKING:
    from django.http import HttpRequest


@csrf_exempt  # a form of the real shop would bring its token
@require_POST
@login_required
def buy(request: HttpRequest) -> JsonResponse:
    """Order products: several tables, one transaction."""
    wanted = json.loads(request.body)
    with transaction.atomic():
        customer = Customer.objects.get(email=request.user.email)
        order = Order.objects.create(customer=customer)
        for product in Product.objects.filter(pk__in=wanted):
            Line.objects.create(order=order, product=product)
            order.total += product.price
        order.save()
        Product.objects.filter(pk__in=wanted).update(stock=F("stock") - 1)
    return JsonResponse({"order": order.pk})


@csrf_exempt
@require_POST
@permission_required("shop.change_order", raise_exception=True)
def cancel(request: HttpRequest, number: int) -> JsonResponse:
    """Cancel an order, and say why; what is recorded beside it is kept if the change is."""
    order = get_object_or_404(Order, pk=number)
    if order.status == "sent":
        raise PermissionDenied
    with transaction.atomic(), context(rationale=request.headers.get("X-Rationale")):
        order.status = "cancelled"
        order.save(update_fields=["status"])
        record("order.refund", resource=f"order:{order.pk}", data={"amount": str(order.total)})
    return JsonResponse({"order": order.pk, "status": order.status})


@csrf_exempt
@require_POST
@permission_required("shop.change_product", raise_exception=True)
def restock(request: HttpRequest) -> JsonResponse:
    """Fill the shelves in the background; the thread is given the context of the request."""

    def work() -> None:
        Product.objects.filter(stock__lt=10).update(stock=F("stock") + 100)
        connection.close()

    thread = threading.Thread(target=wrap(work))
    thread.start()
    thread.join()
    return JsonResponse({"restocked": True, "by": request.user.get_username()})
